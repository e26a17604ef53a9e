// Manifests checks Kubernetes manifests against the types of Kubernetes' own API: every field is known and of its type,
// and what a set of pods needs to work is there. It names the file and the document of each mistake, and ends with 1 if there is one.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

func main() {
	bad := 0
	for _, file := range os.Args[1:] {
		text, err := os.ReadFile(file)
		if err == nil {
			err = check(text)
		}
		if err != nil {
			bad++
			for _, line := range strings.Split(err.Error(), "\n") {
				fmt.Fprintf(os.Stderr, "%s: %s\n", file, line)
			}
		}
	}
	if bad > 0 {
		os.Exit(1)
	}
	fmt.Printf("%d manifests are as Kubernetes reads them\n", len(os.Args)-1)
}

// check reads all documents of a file.
func check(text []byte) error {
	var errs []error
	services := make(map[string]bool)
	var sets []*appsv1.StatefulSet
	r := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for n := 1; ; n++ {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		wrong := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("document %d: %s", n, fmt.Sprintf(format, args...)))
		}
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(doc, &kind); err != nil {
			wrong("%v", err)
			continue
		}
		switch kind.APIVersion + " " + kind.Kind {
		case "v1 Service":
			s := new(corev1.Service)
			if err := yaml.UnmarshalStrict(doc, s); err != nil {
				wrong("%v", err)
			}
			services[s.Name] = true
		case "policy/v1 PodDisruptionBudget":
			if err := yaml.UnmarshalStrict(doc, new(policyv1.PodDisruptionBudget)); err != nil {
				wrong("%v", err)
			}
		case "apps/v1 StatefulSet":
			s := new(appsv1.StatefulSet)
			if err := yaml.UnmarshalStrict(doc, s); err != nil {
				wrong("%v", err)
				continue
			}
			sets = append(sets, s)
			for _, err := range statefulSet(s) {
				wrong("stateful set %s: %v", s.Name, err)
			}
		default:
			wrong("%s %s is none of the kinds that this checks", kind.APIVersion, kind.Kind)
		}
	}
	for _, s := range sets {
		if !services[s.Spec.ServiceName] {
			errs = append(errs, fmt.Errorf("stateful set %s: there is no service %q", s.Name, s.Spec.ServiceName))
		}
	}
	return errors.Join(errs...)
}

// statefulSet finds what the types do not say.
func statefulSet(s *appsv1.StatefulSet) (errs []error) {
	selector, err := metav1.LabelSelectorAsSelector(s.Spec.Selector)
	if err != nil || !selector.Matches(labels.Set(s.Spec.Template.Labels)) {
		errs = append(errs, fmt.Errorf("its selector does not select its pods (%v)", err))
	}
	volumes := make(map[string]bool)
	for _, v := range s.Spec.Template.Spec.Volumes {
		volumes[v.Name] = true
	}
	for _, v := range s.Spec.VolumeClaimTemplates {
		volumes[v.Name] = true
	}
	for _, c := range s.Spec.Template.Spec.Containers {
		if c.Image == "" {
			errs = append(errs, fmt.Errorf("container %s has no image", c.Name))
		}
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				errs = append(errs, fmt.Errorf("container %s mounts %q, which is no volume", c.Name, m.Name))
			}
		}
		known := make(map[string]bool)
		for _, e := range c.Env {
			known[e.Name] = true
		}
		for _, arg := range c.Args {
			for rest := arg; ; {
				_, after, ok := strings.Cut(rest, "$(")
				if !ok {
					break
				}
				name, tail, _ := strings.Cut(after, ")")
				if rest = tail; !known[name] {
					errs = append(errs, fmt.Errorf("container %s: argument %q names %s, which is no variable", c.Name, arg, name))
				}
			}
		}
	}
	return errs
}
